class TodosController < ActionController::API
  def index
    render json: Todo.order(:id)
  end

  def create
    render json: Todo.create!(params.permit(:task, :isCompleted)), status: :created
  end

  def complete
    todo = Todo.find(params[:id])
    todo.update!(isCompleted: true)
    render json: todo
  end

  def destroy
    Todo.find(params[:id]).destroy!
    head :no_content
  end
end
